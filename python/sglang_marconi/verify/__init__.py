"""Does reuse change answers?  Asks a running SGLang server, with any cache, and judges.

``run.verify`` drives the server (``server.py``) through its workloads (``workloads.py``), each
request warm and cold, after having found out what the server's answers vary by anyway
(``calibration.py``). ``comparison.py``, ``noise.py``, ``facts.py`` and ``verdict.py`` are pure.
"""
