"""Values and pure rules: amounts, GPUs, shares, tenants, admission. No input or output here."""
