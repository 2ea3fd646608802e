"""Does the noise do what the accountant says? Canary clients through the real release, and three
ways to read them.

canary      clients whose contribution is as large as the clip allows, in directions nobody else
uses estimators  one estimate of epsilon, and two lower bounds that hold with 95 % confidence
"""
