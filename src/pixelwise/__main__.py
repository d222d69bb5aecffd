"""`python -m pixelwise` is the command `pixelwise`."""

from pixelwise.cli.main import main

if __name__ == "__main__":
    main()
