"""`python -m mpidp.doctor`, alone or under mpirun: is this set-up sane, and if not, what is to be done?"""
