"""What the cache did and why, for who operates it: metrics, the live view, events for routers.

Cache components emit what happens (`events`) to one `Observer`, if there is any; who wants to know
subscribes. Nothing that is observed may change a decision.

| module       | what it is                                                          |
|--------------|---------------------------------------------------------------------|
| ``events``   | what can happen, and who hears of it                                |
| ``requests`` | what a request reuses, seen as SGLang admits it                     |
| ``metrics``  | SGLang's Prometheus endpoint                                        |
| ``routers``  | SGLang's KV events: checkpoints, for cache-aware routers            |
| inspection   | the live view ``/marconi``                                          |
| ``build``    | which of them a server's settings ask for                           |
"""
