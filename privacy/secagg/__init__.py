"""Secure aggregation: the server learns the sum of the nodes' vectors and nothing else.

*Practical Secure Aggregation for Privacy-Preserving Machine Learning*, K. Bonawitz, V. Ivanov, B.
Kreuter, A. Marcedone, H. B. McMahan, S. Patel, D. Ramage, A. Segal, K. Seth, CCS 2017,
https://eprint.iacr.org/2017/281; on a k-regular graph above 100 nodes, *Secure Single-Server
Aggregation with (Poly)Logarithmic Overhead*, J. Bell et al., CCS 2020,
https://eprint.iacr.org/2020/704.

primitives  keys, derivation, authenticated transport, masks
shamir      a 16-byte secret to shares and back
graph       neighbours that mask with each other
messages    what both sides agree on and say
client      a node's state machine
server      collecting, unmasking, checking
vault       a node's secrets on its disk
identity    pinned keys, and a node's own limits
"""
