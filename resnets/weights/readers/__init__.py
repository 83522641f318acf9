"""Readers of weight files and configs of other libraries; none of them runs code."""
