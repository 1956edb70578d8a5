"""The web page that shows the mesh, built to static files."""
