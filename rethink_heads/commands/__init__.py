"""The commands of the command line, one module each; every one is a few lines over the library."""
