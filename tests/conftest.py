"""What all tests share: one Hypothesis profile, the same examples in every run."""

from hypothesis import HealthCheck, settings

settings.register_profile(
    "annotax",
    deadline=None,  # the first example of a test compiles
    derandomize=True,
    max_examples=60,
    suppress_health_check=[HealthCheck.too_slow],  # so does drawing the first class
)
settings.load_profile("annotax")
