"""Places that an application declares: where its prompts are going to part.

| module        | what it does                                                                |
|---------------|-----------------------------------------------------------------------------|
| `breakpoints` | finds `cache_control` in the body of a request: pure                        |
| `variants`    | the same body with something else after a breakpoint: pure                  |
| `position`    | the token where a breakpoint stands, from renderings of such bodies: pure   |
| `transport`   | token positions, checked and carried to the scheduler: pure                 |
| `requests`    | hooks: requests as they come in                                             |
| `usage`       | hooks: what a response says of states that were kept                        |
"""
