"""What a user asks for: recipe, settings, plug-ins and paths, and what of it is never written down."""
