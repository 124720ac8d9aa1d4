"""What the properties share."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

# A busy machine is slow, and that is no defect: no example is given up for the time that it takes.
settings.register_profile(
    "vitrine", deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True
)
settings.load_profile("vitrine")
