"""Measurement system analysis for attributes: may this station judge parts?"""
