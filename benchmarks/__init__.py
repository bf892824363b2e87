"""`make bench`: what the gateway costs, on one core, with everything on. They print figures; they are not tests."""
