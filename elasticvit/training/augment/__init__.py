"""Augmentation of training images: crops and flips, RandAugment, mixup and CutMix."""
