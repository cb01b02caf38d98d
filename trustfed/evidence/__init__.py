"""What happened to every certificate, and what that proves: facts, obligations, figures, packs, reports."""
