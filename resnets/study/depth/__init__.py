"""The depth study: do deeper networks train worse?"""
