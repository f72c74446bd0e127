"""What one does with a trained model: conversion, generation, evaluation."""
