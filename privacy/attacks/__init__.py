"""Attacks by a curious server, as library code.

render               rendering of an uploaded field
inversion            linearised gradient inversion
matching             gradient inversion by simulated training
client_training      that training, as a function of the private values
membership           loss-threshold membership inference
linkage              attribution of adapters to their owners
transcript           statistics of a secure sum's messages
secure_sum           a simulated secure sum, to have such messages
conjugate_gradients  solvers of the two inversions
total_variation      regulariser of the second
"""
