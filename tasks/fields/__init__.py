"""Coordinate networks with stacked parameters, one file each."""
