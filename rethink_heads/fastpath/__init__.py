"""Many proposals of one object through a head at once: the same numbers as RoI by RoI, many times faster.

The predefined proposals of an object are the outer product of x-intervals and y-intervals, and RoIAlign and linear
layers factor over it (``pooling``, ``fc``). RoI features lie position by position with their channels last, batch
normalisation is folded into the convolutions before it (``conv``), hidden features that heads share are computed once,
and of the box regressor only the object's class is asked (``heads``).
"""
