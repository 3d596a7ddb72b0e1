"""The help text of activation patching: what a cell is, what can be put in, and when not to trust the map."""

from typing import Final

HELP: Final = """\
Two runs of the model: a clean prompt with the behaviour, a corrupted one without it. One activation of the one is put
into the other, alone, and the metric is read at the last position. One cell of the map is one such place.

recovery = (patched − corrupted) / (clean − corrupted)

Means over the prompt pairs are taken before the ratio. With denoising (clean into corrupted) 1 means that this place
alone brings the clean answer back, 0 that it changes nothing: it finds what is enough. With noising (corrupted into
clean) 0 means that the answer is lost: it finds what is needed.

The axes of the map are what is patched one by one; everything else is patched together. Layer × position patches a site
at one token, layer × head one head at every token, layer × head × position one head at one token. Spans are tokens that
the prompt pairs name; neurons are the inputs of the MLP's last map; a map by pair shows the same numbers unaveraged.

Other things can be put in than the other run's activation. Zeros and means take a place out, and are best read with
noising: zeros are often far from anything the model has seen, means less so. A resample takes the activation of another
prompt of the same length, drawn by the seed; noise is added to the run's own activation.

When not to trust it:

- Clean and corrupted hardly differ in the metric. The ratio then divides by almost nothing: look at the baselines.
- Several places carry the same information. Noising one of them shows little, since the others stand in for it.
- Several places are needed together. Denoising one of them shows little; no cell shows a joint effect.
- The pairs are not parallel. A column is a position, so tokens that play different roles there are averaged.
- The corruption changes more than the question. The map then shows everything that differs, not only the answer.
- Zeros, means or noise break the model instead of taking a place out. Compare with a resample.
- The metric saturates. Probabilities near 0 or 1 hide effects; the logit difference does not, but it cannot see what
  raises answer and foil alike.

Sources: Wang et al. 2022 (arXiv 2211.00593); Zhang & Nanda 2023 (arXiv 2309.16042); Heimersheim & Nanda 2024
(arXiv 2404.15255); noise: Meng et al. 2022 (arXiv 2202.05262).
"""
