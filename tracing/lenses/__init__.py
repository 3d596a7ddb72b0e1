"""Looks at a model: logit lens, direct logit attribution, attention, heads, saliency, steering.

from tracing.lenses.logit_lens import logit_lens
from tracing.lenses.direct import direct_logit_attribution
from tracing.lenses.attention import attention_patterns
from tracing.lenses.detectors import detect_heads
from tracing.lenses.steering import steering_vector
from tracing.lenses.steered import steer
"""
