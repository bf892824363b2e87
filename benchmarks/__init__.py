"""`make bench`: what the gateway costs, on one core, with everything on. Benchmarks print figures; they are not tests."""
