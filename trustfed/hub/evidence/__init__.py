"""Evidence at the hub: what clusters say of their rotations, kept, shown, asked about, and alarmed on."""
