"""Matmul FLOPs of decoder blocks from their sizes (2 a multiply-add). Torch-free: the cost preview uses it.

Norms, activation functions and softmax are left out: they are not matrix products and take little time.
"""

from dataclasses import dataclass

from tracing.families import ModelFacts, adapter_of


@dataclass(frozen=True, slots=True)
class BlockFlops:
    """Cost of one token in one block, by part; attention over keys comes on top, a key at a time."""

    qkv: float
    out: float
    mlp: float
    per_key: float
    unembed: float

    @classmethod
    def of(cls, facts: ModelFacts) -> "BlockFlops":
        """Of a mixture, a token goes through its active experts and the router counts nothing; of T5, the cross
        attention of a decoder block is counted with as many encoder positions; of Mamba, the mixer's projections."""
        adapter, width = adapter_of(facts.family), facts.d_model
        query, key_value = facts.n_heads * facts.d_head, facts.n_kv_heads * facts.d_head
        attentions = 2 if adapter.encoder is not None else 1
        mlp = 2.0 * (3 if adapter.gated_mlp else 2) * width * facts.d_mlp * facts.n_active
        if not facts.n_heads:  # Mamba: two inner streams of twice the width in, one out
            mlp = 2.0 * (width * 4 * width + 2 * width * width)
        return cls(
            qkv=2.0 * attentions * width * (query + 2 * key_value),
            out=2.0 * attentions * width * query,
            mlp=mlp,
            per_key=4.0 * attentions * query,
            unembed=2.0 * width * facts.vocab_size,
        )

    def token(self, keys: float) -> float:
        """One token through one whole block, attending to `keys` positions."""
        return self.qkv + self.out + self.mlp + self.per_key * keys

    def forward(self, facts: ModelFacts, length: int) -> float:
        """One full forward of a prompt, logits of the last position only, causal attention."""
        return facts.n_layers * length * self.token((length + 1) / 2) + self.unembed

    def suffix(self, layers: int, length: int, start: int, *, last_token: bool) -> float:
        """Positions `start` … `length` − 1 through the last `layers` blocks, without the unembedding.

        With `last_token`, only the last position goes through what comes behind the heads of the last block.
        """
        tokens = length - start
        keys = (start + 1 + length) / 2
        saved = (tokens - 1) * (self.out + self.mlp) if last_token and layers else 0.0
        return layers * tokens * self.token(keys) - saved


def in_words(flops: float) -> str:
    """A number of FLOPs with its unit prefix: `3.1 GFLOP`."""
    for size, prefix in ((1e15, "P"), (1e12, "T"), (1e9, "G")):
        if flops >= size:
            return f"{flops / size:.3g} {prefix}FLOP"
    return f"{flops / 1e6:.3g} MFLOP"
