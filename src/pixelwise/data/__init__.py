"""From files to tensors: layouts, images, masks, normalisation, augmentation, crops, loaders, synthetic cells."""
