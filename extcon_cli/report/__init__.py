"""What a run leaves for people to read: measures, figures, documents."""
