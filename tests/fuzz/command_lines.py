def check(case): pass
