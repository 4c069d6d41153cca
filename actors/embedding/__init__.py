"""Image-text models: images and words as vectors whose cosines say what an image shows."""
