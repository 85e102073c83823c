"""Which of a detector's classes is which of a data set's."""
