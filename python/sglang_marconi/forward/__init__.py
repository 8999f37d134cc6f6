"""States taken inside a forward pass, at any token of its prompts.

A pass over prompts leaves a state at each prompt's end. Those in between exist on the way only, so
they are taken where they are: `plan` says which, and an operation that is hooked writes them into
slots of SGLang's state pool, layer by layer.

| module      | what is hooked                          | how its state at a token is had        |
|-------------|-----------------------------------------|----------------------------------------|
| `windows`   | causal convolutions                     | a slice of the inputs                  |
| `scan`      | Mamba2's scan                           | the scan computes it when asked        |
| `delta`     | GDN's and KDA's chunked kernels         | from the chunk before, the same kernel |
| `lightning` | lightning attention                     | likewise                               |
| `jet`       | JetBlock's convolution and recurrence   | the recurrence stops there             |
| `cca`       | Zaya's convolutions                     | slices of the inputs                   |
| `ple`       | Qwen4-Exp's per-layer embeddings        | slices of the inputs                   |

The pass itself computes what it would have computed anyway: what a request is answered does not
depend on what is taken. Without a plan a hooked operation is called as it is.
"""
