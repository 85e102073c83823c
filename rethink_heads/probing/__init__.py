"""Many proposals of one object through a head at once: the same numbers as RoI by RoI, many times faster.

The predefined proposals of an object are the outer product of x-intervals and y-intervals, and RoIAlign and linear
layers factor over it (``axis``, ``outer``, ``blocks``, ``fc``). What the heads then compute is arranged for the
machine: RoI features lie cell by cell with their channels last, batch normalisation is folded into the convolutions
before it (``conv``), what branches share is computed once (``embedding``), and of the box regressor only the object's
class is asked (``predictor``).
"""
