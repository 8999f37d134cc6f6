"""The live view ``/marconi``: what the cache holds, what it reused and what it evicted, live.

| module       | process   | what it is                                             |
|--------------|-----------|--------------------------------------------------------|
| ``outline``  | scheduler | how much is below each node, for a picture of the most |
| ``identity`` | scheduler | keyed hashes of prefixes                               |
| ``journal``  | scheduler | hit rate over time, latest evictions                   |
| ``snapshot`` | scheduler | all of it at one time, as ``state`` has it             |
| ``state``    | both      | the contents of ``/marconi/state.json``                |
| ``exchange`` | both      | a request and its answer, over SGLang's own sockets    |
| ``routes``   | HTTP      | the view and its data                                  |
"""
