"""The deferred program: nodes and proxies, the operations it may use, its checks and its stored form."""
