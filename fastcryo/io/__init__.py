"""Files: STAR, cryoSPARC .cs, MRC."""
