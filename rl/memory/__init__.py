"""Plan the memory of a run, per device and on the host, before any weight is loaded.

Comments use these symbols: B sequences of T tokens, N reply tokens; L layers of width h, queries of
width q = heads x head size, keys of width k, feed-forward width f, V words in the vocabulary; c
bytes per computed number, r per number in the residual stream, a per number in an adapter; W
processes, t trained parameters.

The formulas describe decoders of the Llama kind (grouped-query attention in a fused kernel, gated
feed-forward, RMSNorm) and follow what autograd saves; rl/tests/test_memory.py holds them against
measurements. Two things are left out: the CUDA context together with the allocator's slack, a few
GiB; and, for vision-language models, the activations of the vision tower and of the layers that
attend to images, which grow with microbatch_size and sampling_batch.
"""

from rl.memory.text import print_plan as print_plan
