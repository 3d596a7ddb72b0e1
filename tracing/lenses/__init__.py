"""Looking at a model: logit lens, direct logit attribution, attention, head detectors, saliency, steering."""
