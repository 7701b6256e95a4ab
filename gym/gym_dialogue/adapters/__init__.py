"""Doors to other frameworks: each plays this project's environments under another library's
interface, and imports that library when it is used. The versions that were tested are in
`requirements/`.
"""
