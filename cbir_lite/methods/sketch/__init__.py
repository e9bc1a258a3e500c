"""Systems that compare sketches with images (survey Section VII-B)."""
