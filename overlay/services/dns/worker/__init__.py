"""The half of the DNS server that reads what strangers send: a process without rights, which does nothing else.

* ``__main__``: the process: gives up its rights, takes instructions, joins the parts.
* ``udp``: the fast way: a batch of questions in, those whose answer is kept are out again at once.
* ``kept`` (pure): encoded answers by the bytes of their questions, and what each hangs on.
* ``wire``: bytes to questions and answers to bytes; the only user of dnspython.
* ``responder``: one question to one answer, from the zone, or by asking upstreams.
* ``remembered`` (pure): what upstreams said: for how long it holds, and for how long it is better than nothing.
* ``upstream``: one question to one upstream, by UDP and TCP. ``resolving``: to which, when, and to how many at once.
* ``tcp``: connections of clients.
* ``clients`` (pure): who may ask, and how much. ``counts``: what is counted.
"""
