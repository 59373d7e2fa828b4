"""Cost, health and clean-up of builds."""
