"""Systems on convolutional networks (survey Section V-A)."""
