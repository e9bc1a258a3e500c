"""Systems that compare images with text (survey Section VII-A)."""
