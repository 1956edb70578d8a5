"""The vocabulary both planes share: frozen structs without behaviour beyond their own consistency, and the error tree.

Glossary: a *service* is a name that applications call; an *endpoint* is one address that answers for it; a *workload*
is what runs behind endpoints; a *downstream* is who calls a proxy and an *upstream* whom the proxy calls; an *exchange*
is one request with its response; *inbound* traffic enters the application beside the proxy, *outbound* traffic leaves
it.
"""
