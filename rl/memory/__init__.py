"""Plan the memory of a run, per device and on the host, before any weight is loaded.

Comments use these symbols: B sequences of T tokens, N reply tokens; L layers of width h, queries of
width q = heads x head size, keys of width k, feed-forward width f, V words in the vocabulary; c
bytes per computed number, r per number in the residual stream, a per number in an adapter; W
processes, t trained parameters.

The formulas describe decoders of the Llama kind (grouped-query attention in a fused kernel, gated
feed-forward, RMSNorm) and follow what autograd saves; rl/tests/test_memory.py holds them against
measurements. What images take is estimated from above, as vision parts differ (`vision`). Left out
are the CUDA context and the allocator's slack, a few GiB.
"""

from rl.memory.text import print_plan as print_plan
