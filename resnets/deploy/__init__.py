"""From a trained net to an artefact that has proved itself, and to a server."""
