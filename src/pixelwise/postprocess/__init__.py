"""Post-processing: from scores and labels to objects, clean masks, polygons and run lengths."""
