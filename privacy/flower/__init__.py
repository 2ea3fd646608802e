"""Private rounds over Flower's Message API: the legs of secure aggregation, on either side.

wire    the messages of each leg, and the table of every field that leaves a node
rounds  the server's legs, as the round of a ``FederatedRounds``
node    a node's answers
"""
