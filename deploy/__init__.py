"""What surrounds the application in a hospital: gateway, workflow manager, one-box appliance."""
