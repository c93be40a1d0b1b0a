"""The public tables of measured kernels: reading them, fitting the shipped coefficients, judging the fits."""
