"""What the papers on equilibrium models claim, as experiments that two cores repeat in minutes to hours."""
