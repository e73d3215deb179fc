"""Which models and versions a service has, and which version of each answers: looked for, tried, led to, taken back."""
