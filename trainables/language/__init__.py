"""What tasks on text share: reading files, tokens on disk, pretrained models."""
