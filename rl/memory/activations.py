"""Memory of passes through the layers: activations, key-value cache and logits.

The package's docstring explains the symbols.
"""

from __future__ import annotations

from dataclasses import dataclass

from gym_policy.logprobs import states_at_once
from gym_policy.models.architecture import TextSizes
from rl.memory.parameters import Counts
from rl.memory.precision import Precision

LAYER, LOGITS = "work of one layer", "logits"
"""Parts of a phase that never coexist, so that only the larger one counts."""

_CACHE_SPARE = 64  # positions that a growing cache allocates ahead


@dataclass(frozen=True)
class Activations:
    """Bytes that passes through the layers take on a device."""

    sizes: TextSizes
    counts: Counts
    precision: Precision
    dropout: bool = False
    """Whether adapters use dropout."""
    device: str = "cpu"

    @property
    def casts(self) -> int:
        """Autocast's copies of the weights, which it keeps at least to the end of a pass."""
        return self.precision.autocast * self.precision.compute * self.counts.matrices

    def kept_by_layer(self) -> float:
        """Return bytes per token that a layer saves for its backward pass, without casts."""
        sizes, c, r = self.sizes, self.precision.compute, self.precision.residual
        h, trains_base = sizes.hidden, self.counts.base_trained > 0
        # Two RMSNorms: the input in float32, 1 / rms, and for the weight the normalized values.
        norms = 2 * (4 * h + 4 + trains_base * r * h)
        # Fused attention: rotated queries and keys, values, output, and a log-sum-exp per head.
        attention = c * (2 * sizes.queries + 2 * sizes.keys) + 4 * sizes.heads
        # Gated feed-forward: the gate before and after its activation, and its other factor.
        feed_forward = 3 * c * sizes.feed_forward
        return norms + attention + feed_forward + self._linear_inputs()

    def _linear_inputs(self) -> float:
        """Return bytes per token and layer of the inputs that trained linear layers save."""
        sizes, counts = self.sizes, self.counts
        h, f = sizes.hidden, sizes.feed_forward
        c, a = self.precision.compute, self.precision.added
        # The outputs of two norms and the product of the gate; autocast casts them anew for each
        # of queries, keys, values, gate and up.
        norms = 5 if self.precision.autocast else 2
        base = c * (norms * h + f) if counts.base_trained > 0 else 0
        # An adapter saves its inner values and its input. The input is shared as above unless it
        # needs a cast or dropout, which adds a mask.
        adapted = counts.adapted / sizes.layers
        if a != c or self.dropout:
            adapters = (a + self.dropout) * adapted
        else:
            adapters = c * min(adapted, 2 * h + f)
        inner = a * counts.adapter_ranks / sizes.layers
        return base + adapters + inner

    def kept(self, tokens: int, checkpointing: bool) -> int:
        """Return bytes that B x T tokens keep until the backward pass. With checkpointing (Chen et
        al. 2016, arXiv 1604.06174) a layer keeps its input only.
        """
        h, r = self.sizes.hidden, self.precision.residual
        last_norm = (4 + 2 * r) * h  # as in a layer, and its output
        if checkpointing:
            return int(tokens * (self.sizes.layers * (r * h) + last_norm))
        return int(tokens * (self.sizes.layers * self.kept_by_layer() + last_norm) + self.casts)

    def learning(self, tokens: int, checkpointing: bool) -> int:
        """Return bytes that the backward pass takes beyond what is kept.

        They peak either at the gradient of a trained output layer or within a layer: there, two
        gradients of feed-forward width or those of a norm in float32, and with checkpointing what
        the layer computes again.
        """
        h, c, r = self.sizes.hidden, self.precision.compute, self.precision.residual
        layer: float = tokens * max(2 * c * self.sizes.feed_forward, 18 * h)
        if checkpointing:
            recomputed = self.kept_by_layer() - r * h
            layer += tokens * recomputed + self.casts / self.sizes.layers
        trains_head = self.counts.base_trained > 0
        head = trains_head * self.precision.base * h * self.sizes.vocabulary
        return int(max(layer, head))

    def forward(self, tokens: int) -> int:
        """Return the peak of a forward pass without gradients, casts aside.

        It is reached in the feed-forward part, with three tensors of its width beside the
        embedding, the layer's input, the residual and its norm.
        """
        h, f = self.sizes.hidden, self.sizes.feed_forward
        c, r, a = self.precision.compute, self.precision.residual, self.precision.added
        per_token = 3 * r * h + c * (h + 3 * f)
        if self.counts.adapted:
            # The base's output waits for the adapter's, of which scaling makes a second copy.
            per_token = 3 * r * h + c * (h + 2 * f) + 2 * a * f + (a != c) * a * h
        return int(tokens * per_token)

    def cache(self, batch: int, positions: int) -> int:
        """Return bytes of the keys and values of B dialogues, B x T x 2 k x c x (L + 1): those of
        each layer, and those of one layer again while they grow.
        """
        per_layer = 2 * self.sizes.keys * self.precision.compute
        return batch * positions * per_layer * (self.sizes.layers + 1)

    def sampling(self, batch: int, context: int, max_new_tokens: int) -> dict[str, int]:
        """Return bytes, by part, of sampling B replies: a forward pass over their contexts, with a
        boolean mask B x T x T as lengths differ, then one token at a time. During that pass the
        cache does not yet hold the replies.
        """
        replies = self.cache(batch, max_new_tokens)
        mask = batch * context**2
        return {
            "key-value cache": replies + self.cache(batch, context + _CACHE_SPARE),
            LAYER: max(0, self.forward(batch * context) + mask - replies),
            LOGITS: self.drawn_logits(batch),
        }

    def learnt_logits(self, replies: int, checkpointing: bool) -> int:
        """Return bytes of the logits z of N reply tokens, or of those scored together, in a forward
        and backward pass.

        softmax(z) and log softmax(z) are kept in float32. The entropy adds the gradients of their
        product to both and that of the exponential: 20 bytes in all. Casts that are not kept still
        exist during the forward pass.
        """
        forward = self.scored_logits(replies) + checkpointing * self.casts
        return max(20 * self._scored_together(replies), forward)

    def scored_logits(self, replies: int) -> int:
        """Return bytes of z without gradients: z itself, and in float32 its log softmax, the
        exponential of that and their product.
        """
        return self._scored_together(replies) * (self.precision.compute + 12)

    def _scored_together(self, replies: int) -> int:
        """Return the number of logits that exist at once when N tokens are scored."""
        vocabulary = self.sizes.vocabulary
        return min(replies, states_at_once(vocabulary, self.device)) * vocabulary

    def drawn_logits(self, batch: int) -> int:
        """Return bytes of the logits of one token in each of B dialogues: z, in float32 z and log
        softmax(z), in float64 log softmax(z) and its exponential.
        """
        return batch * self.sizes.vocabulary * (self.precision.compute + 24)
